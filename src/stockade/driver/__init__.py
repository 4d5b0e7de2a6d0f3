"""The IPsec driver behind one `Driver` protocol (`contract.py`): user space and memory; the kernel's XFRM
later."""
