"""Video: frames in; masks, overlays and contact sheets out."""
