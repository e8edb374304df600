"""`python -m llorch` and the frozen file's entry: hand argv to the applet table."""

import sys

if __name__ == "__main__":
    if getattr(sys, "frozen", False):
        from llorch.host.deferred import install
        from llorch.host.interrupts import count_presses_once

        install()
        count_presses_once()
    if "--multiprocessing-fork" in sys.argv:  # only a spawn child needs it, and multiprocessing costs 12 ms
        from multiprocessing import freeze_support

        freeze_support()
    from llorch.applets import main

    code = main()
    if getattr(sys, "frozen", False):
        from llorch.host.interrupts import ignore_presses

        ignore_presses()
    # Python's last collection visits every object, and the system frees them all anyway: 30 ms after a command by SSH.
    import gc

    gc.freeze()
    sys.exit(code)
