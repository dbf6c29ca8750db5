"""What a model is tested on. Importing it registers the benchmarks."""

from ablate.data.benchmarks import easy_vqa as easy_vqa
from ablate.data.benchmarks import file as file
from ablate.data.benchmarks import gqa as gqa
from ablate.data.benchmarks import held_out as held_out
from ablate.data.benchmarks import pope as pope
from ablate.data.benchmarks import proxies as proxies
from ablate.data.benchmarks import textvqa as textvqa
from ablate.data.benchmarks import vizwiz as vizwiz
from ablate.data.benchmarks import vqav2 as vqav2
from ablate.data.benchmarks import vsr as vsr
from ablate.data.benchmarks.base import BENCHMARKS

__all__ = ["BENCHMARKS"]
