"""All that can be compiled without a GPU: every family, precision and architecture. Minutes: `make tensorrt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import onnx
import pytest

from common.spec.manifest import GRAPH_PATH
from common.spec.model_spec import PRECISIONS, Target
from common.spec.rtx_gpus import RTX_GPUS, unable
from common.spec.target_options import INT4_BLOCK, Int4Block
from tests.rtx.operators import each
from tests.rtx.process import GEOMETRY, Job, compile_all, needs_rtx
from tests.samples.broken_graphs import BROKEN
from tests.samples.engines import export_graph
from tests.samples.families import ON_EVERY_TARGET, write_family

pytestmark = [pytest.mark.tensorrt, needs_rtx]

PAIRS = [(gpu, precision) for precision in PRECISIONS[Target.TENSORRT_RTX] for gpu in RTX_GPUS]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def exported(checkpoints: Path, name: str, precision: str, *, int4_block: int = INT4_BLOCK, **fields: int) -> str:
    folder = checkpoints / "-".join([name, *map(str, fields.values())])
    if not folder.exists():
        write_family(folder, name, **fields)
    return str(export_graph(folder, GEOMETRY, precision, Target.TENSORRT, int4_block=int4_block) / GRAPH_PATH)


def errors(jobs: Sequence[Job]) -> list[str]:
    return [outcome.error for outcome in compile_all(jobs)]


@pytest.mark.parametrize("name", ON_EVERY_TARGET)
def test_a_family_is_compiled_in_every_precision_for_all_gpus_at_once(checkpoints: Path, name: str) -> None:
    precisions = PRECISIONS[Target.TENSORRT_RTX]
    able = {each: [gpu for gpu in RTX_GPUS if not unable((gpu,), each)] for each in precisions}
    jobs = [Job(exported(checkpoints, name, each), each, able[each]) for each in precisions]
    assert errors(jobs) == [""] * len(jobs)


def test_blocks_of_4_bits_are_compiled_for_all_gpus_that_have_them(checkpoints: Path) -> None:
    able, wide = [gpu for gpu in RTX_GPUS if not unable((gpu,), "int4")], {"hidden_size": 128, "intermediate_size": 384}
    graphs = [exported(checkpoints, "llama", "int4", int4_block=block, **wide) for block in get_args(Int4Block)]
    assert errors([Job(graph, "int4", able) for graph in graphs]) == [""] * len(graphs)


@pytest.mark.parametrize("name", ["llama", "gemma2", "pythia", "mpt"])
def test_a_gpu_by_itself_runs_a_precision_or_is_refused_as_the_spec_refuses_it(checkpoints: Path, name: str) -> None:
    jobs = [Job(exported(checkpoints, name, precision), precision, (gpu,)) for gpu, precision in PAIRS]
    for (gpu, precision), error in zip(PAIRS, errors(jobs), strict=True):
        assert bool(error) is bool(unable((gpu,), precision)), (gpu, precision, error)


def test_every_operator_that_the_checker_allows_is_compiled_by_itself(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.onnx" for name, _ in each()}
    for name, model in each():
        paths[name].write_bytes(model.SerializeToString())
    jobs = [Job(str(path), gpus=("sm89",)) for path in paths.values()]  # the first that has all types
    outcomes = dict(zip(paths, errors(jobs), strict=True))
    assert {name: error for name, error in outcomes.items() if error} == {}


def test_what_the_checker_forbids_is_refused_or_has_a_reason(checkpoints: Path) -> None:
    graph = Path(exported(checkpoints, "qwen2", "fp16", num_hidden_layers=1))  # whose first cast a norm alone reads
    for broken in BROKEN:
        model = onnx.load(graph, load_external_data=False)
        broken.plant(model)
        graph.with_name(f"{broken.name}.onnx").write_bytes(model.SerializeToString())
    jobs = [Job(str(graph.with_name(f"{broken.name}.onnx")), "fp16") for broken in BROKEN]
    for broken, error in zip(BROKEN, errors(jobs), strict=True):
        assert bool(error) is not bool(broken.why), (broken.name, error)
