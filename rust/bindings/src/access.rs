//! `Access`: credentials and TLS settings on their way to the engine.

use pyo3::prelude::*;
use slotferry_core::net;

use crate::error::raise;

/// How to open a connection to one side: credentials, database, TLS.
#[pyclass(frozen, weakref, module = "slotferry._core")]
pub(crate) struct Access(pub net::Access);

#[pymethods]
impl Access {
    #[new]
    #[pyo3(signature = (
        *,
        username = None,
        password = None,
        database = 0,
        renewable = false,
        tls = false,
        tls_ca = None,
        tls_cert = None,
        tls_key = None,
        tls_server_name = None,
        tls_insecure = false,
    ))]
    #[allow(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "keyword-only, as the stub lists them"
    )]
    fn new(
        username: Option<String>,
        password: Option<String>,
        database: u32,
        renewable: bool,
        tls: bool,
        tls_ca: Option<Vec<u8>>,
        tls_cert: Option<Vec<u8>>,
        tls_key: Option<Vec<u8>>,
        tls_server_name: Option<String>,
        tls_insecure: bool,
    ) -> PyResult<Self> {
        let access = net::Access::new(username, password, database).renewable(renewable);
        if !tls {
            return Ok(Self(access));
        }
        let settings = net::TlsSettings {
            ca: tls_ca,
            cert: tls_cert,
            key: tls_key,
            server_name: tls_server_name,
            insecure: tls_insecure,
        };
        access.with_tls(settings).map(Self).map_err(|error| raise(&error))
    }

    fn hang_up(&self) {
        self.0.hangup.hang_up();
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
