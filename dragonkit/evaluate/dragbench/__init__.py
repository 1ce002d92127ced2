"""Benchmarks of dragging in real photographs: DragBench and Drag100, read as published, scored as published.

One idea a file::

    sample     one sample: image, points, mask, prompt
    unpickle   pickles from strangers, read without running anything
    read       both layouts from disk
    write      cases of the bundled world in these layouts
    features   the feature model that finds a point again
    metrics    mean distance in both conventions, DAI, PSNR and SSIM outside the mask
    fidelity   1 - LPIPS, where it is installed
    bench      edit, score, resume
    summary    sum up, as numbers and as a table
"""

from dragonkit.evaluate.dragbench.bench import bench_dragbench, check_dragbench
from dragonkit.evaluate.dragbench.features import Dift
from dragonkit.evaluate.dragbench.fidelity import load_fidelity
from dragonkit.evaluate.dragbench.metrics import dai, dai_as_released, global_distances, local_distances, outside
from dragonkit.evaluate.dragbench.read import LAYOUTS, read_sample, read_samples, sample_folders
from dragonkit.evaluate.dragbench.sample import DragSample, sample_of
from dragonkit.evaluate.dragbench.summary import summary, table
from dragonkit.evaluate.dragbench.unpickle import load_pickle
from dragonkit.evaluate.dragbench.write import write_dragbench, write_sample

__all__ = [
    "Dift",
    "DragSample",
    "LAYOUTS",
    "bench_dragbench",
    "check_dragbench",
    "dai",
    "dai_as_released",
    "global_distances",
    "load_fidelity",
    "load_pickle",
    "local_distances",
    "outside",
    "read_sample",
    "read_samples",
    "sample_folders",
    "sample_of",
    "summary",
    "table",
    "write_dragbench",
    "write_sample",
]
