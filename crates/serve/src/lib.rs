//! TLS, HTTP/1.1 and 2, upgrades (WebSocket, SPDY/3.1), drain.
