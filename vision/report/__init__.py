"""What a person looks at: overlays and the inspection report."""
