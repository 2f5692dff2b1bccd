"""`nas serve`: the dashboard and a JSON API for a team, behind tokens."""
