"""The splits of data sets: train, val and test, of MMA-82 those of each of its domains."""

from collections.abc import Iterable

SPLITS = ("train", "val", "test")
REQUIRED_SPLITS = ("train", "val")
DOMAINS = ("laboratory", "psychiatric", "street", "emotion")  # of MMA-82
DOMAIN_SPLITS = tuple(f"{domain}_{split}" for domain in DOMAINS for split in SPLITS)
ALL_SPLITS = (*SPLITS, *DOMAIN_SPLITS)


def role_of(split: str) -> str:
    """Train, val or test: what a split is for, such as `psychiatric_test`."""
    return split.rpartition("_")[2]


def required(present: Iterable[str]) -> tuple[str, ...]:
    """The splits that must have clips, of those that are listed: train and val; where there are domains, all."""
    of_domains = tuple(split for split in DOMAIN_SPLITS if split in set(present))
    return of_domains or REQUIRED_SPLITS
