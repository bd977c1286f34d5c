"""What the compression of an archive costs a whole night, and what it saves on the disk.

The codecs take turns. CPU time hardly depends on what else runs on the machine; the least counts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.night import STAGES, turn
from benchmarks.rig import make_pictures, parse
from pipeline.constants import CODECS

_TURNS = 3


def bytes_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    settings = parse(__doc__ or "", tile=512, pictures=4, side=1024)
    megapixels = settings.pictures * (settings.side * settings.spec.scale) ** 2 / 1e6
    seconds: dict[str, list[dict[str, tuple[float, float]]]] = {codec: [] for codec in CODECS}
    sizes: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        make_pictures(Path(name) / "in", settings)
        for n in range(_TURNS):
            for codec in CODECS:
                folder = Path(name) / f"{codec}{n}"
                seconds[codec].append(turn(folder, settings, 1, codec=codec))
                job = folder / "job"
                sizes[codec] = (bytes_of(job / "source.zarr"), bytes_of(job / "sr.zarr"))
    print(f"{settings}, one worker, {megapixels:.0f} SR megapixels, least of {_TURNS} turns:")
    for codec in CODECS:
        cpu = {stage: min(t[stage][1] for t in seconds[codec]) / megapixels for stage in STAGES}
        stages = ", ".join(f"{stage} {spent * 1e3:.0f}" for stage, spent in cpu.items())
        lr, sr = (size / megapixels / 1e6 for size in sizes[codec])
        print(
            f"{codec}: LR {lr:.2f} and SR {sr:.2f} bytes an SR pixel; ms of CPU a megapixel: "
            f"{stages}, all {sum(cpu.values()) * 1e3:.0f}"
        )


if __name__ == "__main__":
    main()
