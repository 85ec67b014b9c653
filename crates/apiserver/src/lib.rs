//! The ordered chain of layers, discovery, OpenAPI, subresources.
