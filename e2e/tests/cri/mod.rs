//! `keles cri` as a node agent and crictl use it: a client of runtime.v1 over the real socket, with real containers and network. The test runs itself
//! again in a network namespace of its own, so that the machine's interfaces, routes and rules stay untouched.

mod configs;
mod kills;
mod life;
mod refusals;
mod world;
