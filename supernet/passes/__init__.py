"""What the passes of a training do besides computing: leave out at random, compute again, compile."""
