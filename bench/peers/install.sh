#!/bin/sh
# An environment for each peer, below the folder $1: llama.cpp without AMX and with it, PyTorch, OpenVINO GenAI.
# Run from the repository's root; PYTHON names the interpreter. llama.cpp is compiled: a quarter of an hour on two cores.
# What fails is told at its end and leaves the others as they are.
set -u
folder=${1:-.venv-peers}
python=${PYTHON:-python3}
failed=""

environment() { # NAME PACKAGE...: nothing to do where a file says that it was done
    name=$1; shift
    [ -e "$folder/$name/ready" ] && return
    "$python" -m venv "$folder/$name" && "$folder/$name/bin/pip" install "$@" && touch "$folder/$name/ready" || failed="$failed $name"
}

compiled() { # NAME FLAGS: llama.cpp for this processor's instructions, and AMX or not
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_COMMON=OFF -DGGML_NATIVE=OFF $(instructions) $2" \
        environment "$1" --no-cache-dir --no-binary llama-cpp-python 'llama-cpp-python[server]==0.3.36' gguf==0.19.0
}

instructions() { # what CMake calls those that /proc/cpuinfo names
    flags=" $(grep -m 1 '^flags' /proc/cpuinfo) "
    while read -r flag option; do
        case $flags in *" $flag "*) echo "-DGGML_$option=ON" ;; *) echo "-DGGML_$option=OFF" ;; esac
    done <<END
sse4_2 SSE42
avx AVX
avx2 AVX2
bmi2 BMI2
fma FMA
f16c F16C
avx_vnni AVX_VNNI
avx512f AVX512
avx512vbmi AVX512_VBMI
avx512_vnni AVX512_VNNI
avx512_bf16 AVX512_BF16
END
}

environment torch torch==2.13.0 transformers==5.23.0
environment openvino openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0 'optimum-intel[openvino]==2.2.0' torch==2.13.0 \
    accelerate==1.15.0 gguf==0.19.0
# Comes with Optimum and is not needed; one made for another torch keeps transformers from loading.
[ ! -e "$folder/openvino/ready" ] || "$folder/openvino/bin/pip" uninstall --yes --quiet torchvision
compiled llama ""
compiled llama-amx "-DGGML_AMX_TILE=ON -DGGML_AMX_INT8=ON -DGGML_AMX_BF16=ON"
[ -z "$failed" ] || { echo "not installed:$failed" >&2; exit 1; }
