"""Where a CPU's time goes in a network's forward pass and training step: the time of each kind of instruction.

Beside each kind stands what the machine allows: its floating-point operations at the rate of a large matrix product,
and the bytes that it reads and writes at the memory's bandwidth, both measured in the same run. An instruction's time
is from its start to its end; those that run beside each other count each. MANet without arguments.
"""

import collections
import math
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from benchmarks import measure, step

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)")
_ARRAY = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")
_NO_WORK = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "opt-barrier"}
_CONTAINERS = {"while", "conditional", "call"}  # their instructions count, not they


class Instruction(NamedTuple):
    """An instruction of a compiled program, by the text that the compiler prints."""

    type: str
    opcode: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        """The names of the instructions that it reads."""
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its result, if that is one array."""
        return _sizes(self.type)[0][1]

    def attribute(self, pattern: str) -> str:
        """The text that a group of a pattern finds in it, or ""."""
        found = re.search(pattern, self.rest)
        return found.group(1) if found else ""


Program = dict[str, dict[str, Instruction]]  # instructions by name, by computation


def main() -> None:
    """Runs the command."""
    parser = measure.parser("benchmarks.profile", __doc__, repeats=5)
    step.add_network_flags(parser)
    arguments = parser.parse_args()
    spec = step.chosen_network(parser, arguments)
    clip = spec.options.clip
    functions, compiled, _ = step.ours(step.make_batch(arguments.batch_size, clip.crop_size, clip.num_frames), spec)
    rate, bandwidth = measure.matrix_rate(arguments.dtype), measure.bandwidth()
    print(f"{step.network_name(arguments)}; {measure.machine()}, {rate / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s")
    rows = {}
    for part in ("forward", "train step"):
        seconds = time_instructions(functions[f"ours {part}"], arguments.repeats)
        rows[part] = summarize(parse(compiled[part].as_text()), seconds, rate, bandwidth)
        print(f"{part}\n{measure.table(rows[part])}")
    measure.finish({"arguments": vars(arguments) | {"json": None}, "rows": rows}, arguments.json)


def time_instructions(function: Callable[[], Any], repeats: int) -> dict[str, float]:
    """The median seconds of each instruction, by name, and of a whole call, by ""."""
    times = collections.defaultdict(list)
    for i in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                function()
            (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
            profile = jax.profiler.ProfileData.from_file(str(path))
        if i:  # the first call finds no memory at hand
            for name, seconds in _spans(profile):
                times[name].append(seconds)
    return {name: measure.spread(values)["median"] for name, values in times.items()}


def _spans(profile: Any) -> Iterator[tuple[str, float]]:
    """Each instruction's name and its seconds from start to end, summed over its runs; by "" those of all."""
    starts, seconds = {}, collections.Counter()
    events = [event for plane in profile.planes for line in plane.lines for event in line.events]
    first, last = math.inf, 0.0
    for event in sorted(events, key=lambda event: event.start_ns):
        if event.name.startswith("end: ") and (name := event.name.removeprefix("end: ")) in starts:
            start, last = starts.pop(name), event.start_ns
            first = min(first, start)
            seconds[name] += (last - start) / 1e9
        else:
            starts[event.name] = event.start_ns  # also of what is no instruction, which has no end
    yield from seconds.items()
    yield "", (last - first) / 1e9


def parse(text: str) -> Program:
    """The instructions of a compiled program's text."""
    program: Program = {}
    for line in text.splitlines():
        if line.endswith("{") and (name := re.match(r"(?:ENTRY )?%([\w.\-]+) ", line)):
            program[name.group(1)] = current = {}
        elif found := _INSTRUCTION.match(line):
            name, *rest = found.groups()
            current[name] = Instruction(*rest)
    return program


def summarize(program: Program, seconds: dict[str, float], rate: float, bandwidth: float) -> list[dict[str, Any]]:
    """A row for each kind of instruction, the longest first, and one for all, whose time is a call's."""
    totals = collections.defaultdict(collections.Counter)
    for computation in program.values():
        for name, instruction in computation.items():
            if name not in seconds or instruction.opcode in _NO_WORK | _CONTAINERS:
                continue
            work = {
                "seconds": seconds[name],
                "instructions": 1,
                "operations": _operations(program, computation, instruction),
                "bytes": sum(_bytes(computation[each].type) for each in instruction.operands if each in computation)
                + _bytes(instruction.type),
            }
            totals[_kind(program, instruction)].update(work)
    rows = sorted(totals.items(), key=lambda item: -item[1]["seconds"])
    whole = sum(totals.values(), collections.Counter()) | {"seconds": seconds[""]}
    return [
        {
            "": kind,
            "instructions": total["instructions"],
            "ms": total["seconds"] * 1e3,
            "operations / rate (ms)": total["operations"] / rate * 1e3,
            "bytes / bandwidth (ms)": total["bytes"] / bandwidth * 1e3,
        }
        for kind, total in [*rows, ("a call", whole)]
    ]


def _kind(program: Program, instruction: Instruction) -> str:
    instructions = [instruction, *_called(program, instruction).values()]
    inside = {each.opcode for each in instructions}
    backward = " of gradients" if "transpose(jvp" in instruction.rest else ""
    if "convolution" in inside:
        return f"convolutions{backward}"
    if "dot" in inside:
        return f"matrix products{backward}"
    if any(each.attribute(r"window=\{size=1x(3x3)x1") for each in instructions):
        return f"pooling{backward}"
    if inside & {"reduce", "reduce-window"}:
        return f"sums{backward}"
    return f"elementwise, moves{backward}"


def _called(program: Program, instruction: Instruction) -> dict[str, Instruction]:
    """The instructions of the computation that an instruction is the fusion of; none of any other."""
    return program.get(instruction.attribute(r"calls=%([\w.\-]+)"), {})


def _operations(program: Program, computation: dict[str, Instruction], instruction: Instruction) -> float:
    """Floating-point operations of the products and convolutions of an instruction."""
    if called := _called(program, instruction):
        return sum(_operations(program, called, each) for each in called.values())
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    first, second = (computation[name].shape for name in instruction.operands)
    if instruction.opcode == "dot":
        axes = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
        return 2 * math.prod(instruction.shape) * math.prod(first[int(axis)] for axis in axes)
    labels = instruction.attribute(r"dim_labels=\w+_(\w+)->")
    apart = instruction.attribute(r"lhs_dilate=([\dx]+)").split("x")  # of the pixels between, all are 0
    products = math.prod(second) // second[labels.index("o")]
    return 2 * math.prod(instruction.shape) * products / math.prod(int(each or 1) for each in apart)


def _sizes(kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """The element types and sizes of the arrays of a type."""
    return [(name, tuple(int(n) for n in sizes.split(",") if n)) for name, sizes in _ARRAY.findall(kind)]


def _bytes(kind: str) -> int:
    widths = ((int(re.sub(r"\D", "", name) or 8) // 8, sizes) for name, sizes in _sizes(kind))
    return sum(width * math.prod(sizes) for width, sizes in widths)


if __name__ == "__main__":
    main()
