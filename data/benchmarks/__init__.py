"""What a model is tested on. Importing it registers the benchmarks."""

from data.benchmarks import easy_vqa as easy_vqa
from data.benchmarks.base import BENCHMARKS

__all__ = ["BENCHMARKS"]
