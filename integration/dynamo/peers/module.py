"""Run a program of Dynamo, such as dynamo.frontend, with the arguments that follow.

It ends when its standard input does, so that none outlives the tests.
"""

import os
import runpy
import sys
import threading


def end_with_input():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
del sys.path[0], sys.argv[0]  # the peers are no modules of it
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
