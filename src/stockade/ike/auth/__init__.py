"""Ways to prove who one is in main mode, each behind the `AuthMethod` protocol of `method.py`."""
