//! Pod volumes: one file a volume type.
