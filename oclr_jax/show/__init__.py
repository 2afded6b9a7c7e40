"""What people look at: overlays, contact sheets, flow colours, HTML pages."""
