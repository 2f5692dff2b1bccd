"""What data sets of images have in common: their options, the order of training, batches; rows of tables."""
