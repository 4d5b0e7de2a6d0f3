"""The data plane in the kernel: XFRM states and policies over netlink."""
