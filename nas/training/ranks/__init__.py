"""Who shares the batches of one training: processes of this machine, of a Ray cluster, or of `torchrun`."""
