"""Visualisation: overlays, contact sheets, flow colours, HTML pages."""
