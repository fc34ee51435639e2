"""Generated from protos/profilegrid/v1; never edited by hand."""
