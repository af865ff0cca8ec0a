"""Starts the ranks of a test, forked from a server that has imported what they need."""

from multiprocessing import set_forkserver_preload

import torch.multiprocessing
from warm_python import IMPORTED


def run_ranks(function, arguments, count):
    """Call `function(rank, *arguments)` in as many new processes, and wait; an error in one is raised here.

    A server forks them that has imported dcnlab, in the environment and folder that it was started in.
    """
    set_forkserver_preload(list(IMPORTED))
    torch.multiprocessing.start_processes(function, arguments, count, start_method="forkserver")
