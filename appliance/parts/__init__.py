"""What joins the floors: each part builds and joins the services of one subject; app.py puts the parts together."""
