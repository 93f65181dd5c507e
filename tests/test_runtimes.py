"""The graph on its runtimes: the same answer from each, and the fastest remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import blemish
from blemish.errors import ModelFileError, UsageError
from blemish.images import ImageContract
from blemish.modelfile import open_model_file
from blemish.runtime import check_runtime, choosing, load
from blemish.runtime.graph import RUNTIMES, Graph, Maps, OnnxRuntimeGraph, RuntimeName, installed_runtimes, open_graph
from tiny import make_parts, part

needs_openvino = pytest.mark.skipif(
    "openvino" not in installed_runtimes(), reason="needs OpenVINO: pip install 'blemish[openvino]'"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtimes")
    blemish.train(
        make_parts(folder / "parts", 24), folder / "part.blemish", method="padim", settings={"image_size": 64}
    )
    return folder / "part.blemish"


@needs_openvino
def test_both_runtimes_judge_alike(model: Path) -> None:
    one, other = load(model, threads=1), load(model, threads=1, runtime="openvino")

    for number, defect in [(100, False), (101, True), (102, False)]:
        a, b = one.inspect(part(number, defect=defect)), other.inspect(part(number, defect=defect))
        assert a.score is not None
        assert b.score == pytest.approx(a.score, rel=1e-3)
        assert a.anomaly_map is not None
        np.testing.assert_allclose(b.anomaly_map, a.anomaly_map, atol=1e-3 * a.anomaly_map.max())
        assert (a.verdict, a.p_value) == (b.verdict, b.p_value)


@pytest.mark.parametrize(
    ("threads", "at_once", "each"), [(None, 1, 6), (None, 2, 3), (4, 1, 4), (4, 4, 1), (4, 3, 1), (1, 4, 1)]
)
def test_onnx_runtime_shares_the_usable_cores_out_and_lets_idle_threads_sleep(
    model: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, at_once: int, each: int
) -> None:
    monkeypatch.setattr("blemish.runtime.graph.usable_cores", lambda: 6)
    graph = OnnxRuntimeGraph(open_model_file(model).graph, threads, at_once)

    options = graph._session.get_session_options()
    assert options.intra_op_num_threads == each
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("runtime", installed_runtimes())
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_a_process_told_to_keep_to_one_core_does_so(model: Path, runtime: RuntimeName) -> None:
    """ONNX Runtime left to itself ties a thread to each core of the machine, whatever the process is bound to."""
    code = (
        "import os\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "import numpy, blemish\n"
        f"detector = blemish.load({str(model)!r}, runtime={runtime!r})\n"
        "detector.inspect(numpy.zeros((72, 80, 3), numpy.uint8))\n"
        "print({core for thread in os.listdir('/proc/self/task') for core in os.sched_getaffinity(int(thread))})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str({min(os.sched_getaffinity(0))})


@needs_openvino
def test_openvino_answers_keep_their_values_after_the_next_image(model: Path) -> None:
    graph = open_graph(open_model_file(model).graph, 1, "openvino")
    maps, scores = graph.run(part(1, defect=True)[None])
    before = maps.copy(), scores.copy()

    graph.run(part(2)[None])

    assert np.array_equal(maps, before[0])
    assert np.array_equal(scores, before[1])


@needs_openvino
def test_openvino_takes_batches_and_sizes_as_they_come(model: Path) -> None:
    graph = open_graph(open_model_file(model).graph, 1, "openvino")

    for batch, height, width in [(1, 72, 80), (3, 72, 80), (2, 50, 97)]:
        maps, scores = graph.run(np.stack([part(n, (height, width)) for n in range(batch)]))
        assert maps.shape == (batch, height, width)
        assert scores.shape == (batch,)


@needs_openvino
def test_threads_may_show_openvino_its_first_images_at_the_same_time(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(open_model_file(model).graph)
    script = """
import sys
from pathlib import Path
from threading import Barrier, Thread
import numpy as np
from blemish.runtime.graph import open_graph

sys.setswitchinterval(1e-6)
graph = open_graph(Path(sys.argv[1]).read_bytes(), 2, "openvino", 2)
together = Barrier(4)

def first():
    together.wait()
    graph.run(np.zeros((1, 64, 64, 3), np.uint8))

threads = [Thread(target=first) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    # Each new process has a first time of its own; one in four used to wait for ever.
    for _ in range(8):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "model.onnx")], check=True, timeout=100)


@needs_openvino
def test_images_of_ever_new_sizes_do_not_fill_the_memory_of_openvino(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(open_model_file(model).graph)
    script = """
import os
import sys
from pathlib import Path
import numpy as np
from blemish.runtime.graph import open_graph

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

graph = open_graph(Path(sys.argv[1]).read_bytes(), 1, "openvino")
before = resident()
for size in range(600):
    graph.run(np.zeros((1, 100 + size % 25, 100 + size // 25, 3), np.uint8))
print(resident() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Left to itself it takes 780 MB.
    assert int(done.stdout) < 500


@needs_openvino
def test_openvino_reaches_for_no_network_and_no_torch(model: Path) -> None:
    """Importing it also imports its telemetry, which must stay silent."""
    code = (
        "import sys\n"
        "events = []\n"
        "sys.addaudithook(lambda name, _: events.append(name) if name.startswith('socket.') else None)\n"
        "import numpy, blemish\n"
        f"detector = blemish.load({str(model)!r}, runtime='openvino')\n"
        "assert detector.inspect(numpy.zeros((72, 80, 3), 'uint8')).score is not None\n"
        "reached = [name for name in events if name not in ('socket.__new__', 'socket.gethostname')]\n"
        "print(reached, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[] False"


def test_onnxruntime_keeps_no_identifier_and_reports_nothing(model: Path, tmp_path: Path) -> None:
    """Its official builds would, from their start on; what they want to send waits in a file beside the identifier."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}

    def left_by(name: str, code: str) -> list[Path]:
        home = tmp_path / name
        home.mkdir()
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment | own, stdout=subprocess.DEVNULL)
        return sorted(home.rglob("*"))

    graph = tmp_path / "model.onnx"
    graph.write_bytes(open_model_file(model).graph)
    alone = f"import onnxruntime; onnxruntime.InferenceSession({str(graph)!r}, providers=['CPUExecutionProvider'])"
    if not left_by("alone", alone):
        pytest.skip("this build of ONNX Runtime reports nothing by itself")

    through = f"import blemish, numpy; blemish.load({str(model)!r}).inspect(numpy.zeros((72, 80, 3), 'uint8'))"
    assert left_by("through", through) == []


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_a_graph_that_a_runtime_refuses_is_a_model_file_error(runtime: RuntimeName) -> None:
    node = onnx.helper.make_node("NoSuchOperator", ["image"], ["score"])
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["b"]) for n in ("image", "score")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "wrong", values[:1], values[1:]))

    with pytest.raises(ModelFileError, match="cannot run its graph"):
        open_graph(model.SerializeToString(), 1, runtime)


def test_a_runtime_must_exist_and_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no runtime 'tensorrt'"):
        check_runtime("tensorrt")

    monkeypatch.setattr("blemish.runtime.graph.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="openvino is not installed here"):
        check_runtime("openvino")


class Slow:
    """A stand-in for a graph that takes its time by the clock that is asked."""

    def __init__(self, runtime: RuntimeName, seconds: float, clock: list[float]) -> None:
        self.runtime: RuntimeName = runtime
        self.seconds, self.clock = seconds, clock
        self.shapes: list[tuple[int, ...]] = []

    def run(self, images: NDArray[np.generic]) -> tuple[Maps, Maps]:
        self.clock[0] += self.seconds
        self.shapes.append(images.shape)
        return np.zeros(images.shape[:3], np.float32), np.zeros(len(images), np.float32)


@pytest.fixture
def two_runtimes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Slow]:
    """Both runtimes installed, the second twice as fast; a cache folder of its own."""
    clock = [0.0]
    opened: list[Slow] = []

    def opening(content: bytes, threads: int | None, runtime: RuntimeName) -> Graph:
        opened.append(Slow(runtime, {"onnxruntime": 2.0, "openvino": 1.0}[runtime], clock))
        return opened[-1]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choosing, "installed_runtimes", lambda: [*RUNTIMES])
    monkeypatch.setattr(choosing, "open_graph", opening)
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: clock[0])
    return opened


def test_auto_takes_the_faster_runtime_and_measures_once(two_runtimes: list[Slow]) -> None:
    contract = ImageContract(width=(300, 900), height=(100, 200))

    assert choosing.fastest(b"graph", contract) == "openvino"
    assert {graph.runtime for graph in two_runtimes} == {"onnxruntime", "openvino"}
    assert {shape for graph in two_runtimes for shape in graph.shapes} == {(1, 200, 300, 3)}

    measured = len(two_runtimes)
    assert choosing.fastest(b"graph", contract) == "openvino"
    assert len(two_runtimes) == measured
    choosing.fastest(b"another graph", contract)
    choosing.fastest(b"graph", contract, threads=1)
    assert len(two_runtimes) == 3 * measured


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"x": 3}'])
def test_a_damaged_memory_is_forgotten(two_runtimes: list[Slow], tmp_path: Path, content: str) -> None:
    (tmp_path / "cache" / "blemish").mkdir(parents=True)
    file = tmp_path / "cache" / "blemish" / "runtimes.json"
    file.write_text(content)

    assert choosing.fastest(b"graph", ImageContract()) == "openvino"
    assert "openvino" in json.loads(file.read_text()).values()


def test_a_cache_folder_that_cannot_be_made_only_costs_time(two_runtimes: list[Slow], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")

    assert choosing.fastest(b"graph", ImageContract()) == "openvino"


def test_with_one_runtime_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "installed_runtimes", lambda: ["onnxruntime"])

    assert choosing.fastest(b"not even a graph", ImageContract()) == "onnxruntime"
