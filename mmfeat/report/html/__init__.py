"""HTML pages that need nothing beside them: templates, charts as SVG, galleries. Whatever data says stays text."""
