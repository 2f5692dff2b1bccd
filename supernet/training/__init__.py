"""How shared weights are trained."""
