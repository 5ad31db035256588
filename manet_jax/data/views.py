"""Test-time views: several clips and crops of a video, over which a prediction is averaged."""

import dataclasses

from manet_jax.models.options import at_least, one_of, raise_any

NUM_CROPS = (1, 3, 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """The views of a video: each of its clips in each of its crops, as they are and perhaps mirrored.

    `tasks.average_views` has the rule by which outputs are averaged.

    Attributes:
      num_clips: clips, which `sampling.eval_frames` spreads over the video.
      num_crops: 1, the centre; 3, side by side along the longer side, each as large as the shorter side; 10, the
        corners and the centre, and their mirror images.
      flip: whether the mirror images of 1 or 3 crops are views too.
    """

    num_clips: int = 1
    num_crops: int = 1
    flip: bool = False

    def __post_init__(self):
        problems = at_least(self, num_clips=1) + one_of(self, num_crops=NUM_CROPS)
        if self.num_crops == 10 and self.flip:
            problems.append("flip is True; that is for num_crops 1 or 3: 10 crops have their mirror images already")
        raise_any(problems)

    @property
    def mirrored(self) -> bool:
        """Whether there are mirror images."""
        return self.flip or self.num_crops == 10

    @property
    def num_positions(self) -> int:
        """The crops of a frame without the mirror images."""
        return 5 if self.num_crops == 10 else self.num_crops

    def __len__(self) -> int:
        return self.num_clips * self.num_positions * (1 + self.mirrored)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(self).items())

    def parts(self, view: int) -> tuple[int, int, bool]:
        """The clip and the crop of a view, and whether it is mirrored."""
        view, mirrored = divmod(view, 1 + self.mirrored)
        return *divmod(view, self.num_positions), bool(mirrored)


SINGLE_VIEW = Views()
