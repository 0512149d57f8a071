"""`alphaflow demo`: models shown on a page of one's own machine, and the same through a small HTTP interface."""
