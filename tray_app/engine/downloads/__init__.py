"""Models from elsewhere: references read, planned, fetched piece by piece, put into the library."""
