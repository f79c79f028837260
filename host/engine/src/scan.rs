//! What is checked of a component's bytes before they are compiled, so that a
//! small package cannot keep the compiler busy for minutes.

use wasmparser::{ComponentInstance, Parser, Payload};

/// Ceilings on what is handed to the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// The component's length, in bytes.
    pub component_bytes: usize,
    /// Functions, over all core modules.
    pub functions: usize,
    /// The longest function body, in bytes: compile time grows faster than it.
    pub function_bytes: usize,
    /// Core modules and nested components.
    pub modules: usize,
    /// Instances that the component makes, those that nested components make
    /// each time they are instantiated included: the compiler unrolls them.
    pub instances: usize,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            component_bytes: 32 << 20,
            functions: 100_000,
            function_bytes: 512 << 10,
            modules: 256,
            instances: 1_000,
        }
    }
}

/// Why a component is not compiled.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It is not a component.
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    /// It is damaged.
    #[error("malformed WebAssembly")]
    Malformed(#[source] wasmparser::BinaryReaderError),
    /// It is over a limit.
    #[error("compile limit: {found} {what}, {limit} allowed")]
    OverLimit {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: usize,
        /// How much is allowed.
        limit: usize,
    },
}

fn within(what: &'static str, found: usize, limit: usize) -> Result<(), ScanError> {
    if found > limit { Err(ScanError::OverLimit { what, found, limit }) } else { Ok(()) }
}

/// Check `component` against `limits` in one pass over its sections.
pub(crate) fn scan(component: &[u8], limits: &CompileLimits) -> Result<(), ScanError> {
    within("bytes of component", component.len(), limits.component_bytes)?;
    if !Parser::is_component(component) {
        return Err(ScanError::NotAComponent(if Parser::is_core_wasm(component) {
            "it is a core module; `headland plugin build` makes a component of it".to_owned()
        } else {
            "it does not start with the component preamble".to_owned()
        }));
    }
    let (mut functions, mut modules) = (0usize, 0usize);
    // Instances that each open component makes, and the most that any closed
    // one does: an instantiation counts as that many, whichever it is of.
    let (mut open, mut most) = (Vec::new(), 0usize);
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(ScanError::Malformed)? {
            Payload::CodeSectionStart { count, .. } => {
                functions = functions.saturating_add(count as usize);
                within("functions", functions, limits.functions)?;
            }
            Payload::CodeSectionEntry(body) => {
                within("bytes in one function", body.range().len(), limits.function_bytes)?;
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                modules += 1;
                within("nested modules", modules, limits.modules)?;
            }
            Payload::Version { .. } => open.push(0usize),
            Payload::End(_) => most = most.max(open.pop().unwrap_or(0)),
            Payload::InstanceSection(section) => {
                let made = open.last_mut().map(|n| {
                    *n = n.saturating_add(section.count() as usize);
                    *n
                });
                within("instances", made.unwrap_or(0), limits.instances)?;
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { .. } =
                        instance.map_err(ScanError::Malformed)?
                        && let Some(n) = open.last_mut()
                    {
                        *n = n.saturating_add(most).saturating_add(1);
                        within("instances", *n, limits.instances)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn core_module_is_told_from_component() {
        let e = scan(b"\0asm\x01\0\0\0", &CompileLimits::default()).unwrap_err();
        assert!(e.to_string().contains("core module"), "{e}");
        assert!(matches!(scan(b"", &CompileLimits::default()), Err(ScanError::NotAComponent(_))));
    }

    #[test]
    fn oversize_component_is_refused_by_name() {
        let limits = CompileLimits { component_bytes: 4, ..CompileLimits::default() };
        let e = scan(b"\0asm\x0d\0\x01\0", &limits).unwrap_err();
        assert_eq!(e.to_string(), "compile limit: 8 bytes of component, 4 allowed");
    }
}
