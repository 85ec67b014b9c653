//! OCI image, runtime and distribution types, digests and references.
