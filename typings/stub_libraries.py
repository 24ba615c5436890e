"""Empty stand-ins for TensorRT's C libraries, with which the real Python bindings import on any machine.

The bindings (``tensorrt-cu13-bindings``, 1.3 MB) need nine C functions of three libraries that are gigabytes large and
load only beside a driver. Three shared objects whose functions return null are enough for ``import``: every class,
signature and enum is there. Whatever would start TensorRT raises TypeError, as the bindings do for a null.
"""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType

BINDINGS = "tensorrt_bindings"
FUNCTIONS = {
    "libnvinfer.so.11": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvinfer_plugin.so.11": ("initLibNvInferPlugins",),
    "libnvonnxparser.so.11": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}


def import_bindings() -> ModuleType:
    """Import the real bindings, with TensorRT's own libraries where they are installed and stand-ins elsewhere.

    Raises ImportError if the bindings are not installed, RuntimeError if there is no C compiler.
    """
    try:
        return importlib.import_module(BINDINGS)
    except ModuleNotFoundError:
        raise
    except ImportError:  # a library is missing; real ones come first, for a stand-in would hide them
        load_stub_libraries()
        return importlib.import_module(BINDINGS)


def load_stub_libraries() -> None:
    """Compile and load the stand-ins for the rest of the process; they need no file once they are loaded."""
    with tempfile.TemporaryDirectory() as folder:
        for library, functions in FUNCTIONS.items():
            ctypes.CDLL(str(_compile(Path(folder), library, functions)), ctypes.RTLD_GLOBAL)


def c_compiler() -> str | None:
    """Where the C compiler is, or None."""
    return shutil.which("gcc") or shutil.which("cc")


def _compile(folder: Path, library: str, functions: tuple[str, ...]) -> Path:
    compiler = c_compiler()
    if compiler is None:
        raise RuntimeError("TensorRT's bindings need stand-in libraries: install a C compiler (gcc or cc)")
    source = folder / f"{library}.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions), encoding="utf-8")
    output = folder / library
    soname = f"-Wl,-soname,{library}"
    subprocess.run([compiler, "-shared", "-fPIC", soname, "-o", str(output), str(source)], check=True)
    return output
