"""Files of networks, loaded and run by their runtime: no torch, so that memory can be measured without it."""
