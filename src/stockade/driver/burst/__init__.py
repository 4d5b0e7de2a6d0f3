"""The burst path: a whole batch of packets in one call of C, beside the Python data path.

`*.c` and `burst.h` make `libstockade_burst.so` (`build`), against libcrypto; `engine` talks to it. Where it
was not built, or is switched off, the Python path does everything: it decides in either case, and is what the
tests compare this with, byte for byte.
"""
