"""Several jobs on the same axes: whether they compare, their finalists, and numbers of their fronts."""
