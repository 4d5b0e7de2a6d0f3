"""Stockade: the IPsec system of Windows (policy agent, IKE, IPsec driver, management tools) for Linux."""

__version__ = "0.1.0"
