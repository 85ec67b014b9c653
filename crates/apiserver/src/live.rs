//! Documents that follow from the kinds served: made when asked for, and again when kinds have come, changed or gone.

use keles_registry::Registry;
use std::sync::{Arc, Mutex};

/// What is made from all kinds.
pub struct Live<T> {
    make: Box<dyn Fn(&Registry) -> T + Send + Sync>,
    made: Mutex<Option<(u64, Arc<T>)>>,
}

impl<T> Live<T> {
    pub fn new(make: impl Fn(&Registry) -> T + Send + Sync + 'static) -> Self {
        Live { make: Box::new(make), made: Mutex::new(None) }
    }
    /// As the kinds are now.
    pub fn get(&self, registry: &Registry) -> Arc<T> {
        let version = *registry.kinds_changed().borrow();
        let mut made = self.made.lock().unwrap_or_else(|e| e.into_inner());
        match &*made {
            Some((v, there)) if *v == version => there.clone(),
            _ => {
                // Read before the kinds are: a change in between makes it anew the next time.
                let new = Arc::new((self.make)(registry));
                *made = Some((version, new.clone()));
                new
            }
        }
    }
}
