"""Timings of networks on a device, and the labels that are made of them."""
