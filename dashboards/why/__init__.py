"""The page that says why: what choices are worth, what subnets are made of, where their time goes."""
