//! Counts the values of one column that are over a limit.

use headland_sdk::{
    Monitor,
    monitor::{Batch, ColumnValues, Finding, MonitorError, Severity},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `pipeline.toml` may say of this monitor.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The column to watch.
    column: String,
    /// What its values should not exceed.
    limit: f64,
}

/// What was counted: whole numbers, so that merging is exact.
#[derive(Default, Serialize, Deserialize)]
pub struct Counts {
    rows: u64,
    over: u64,
}

/// The monitor over one window.
pub struct Watch {
    config: Config,
    counts: Counts,
}

fn encode(counts: &Counts) -> Vec<u8> {
    serde_json::to_vec(counts).unwrap_or_default()
}

fn decode(bytes: &[u8]) -> Option<Counts> {
    headland_sdk::json::from_slice(bytes).ok()
}

impl Monitor for Watch {
    type Config = Config;

    fn open(config: Config, _: &[u8]) -> Result<Self, MonitorError> {
        Ok(Self { config, counts: Counts::default() })
    }

    fn restore(config: Config, _: &[u8], checkpoint: &[u8]) -> Result<Self, MonitorError> {
        let damaged = || MonitorError::BadCheckpoint("it does not parse".to_owned());
        Ok(Self { config, counts: decode(checkpoint).ok_or_else(damaged)? })
    }

    fn observe(&mut self, batch: &Batch) -> Result<Vec<Finding>, MonitorError> {
        let column = batch.columns.iter().find(|c| c.name == self.config.column);
        let Some(ColumnValues::Numeric(values)) = column.map(|c| &c.values) else {
            return Err(MonitorError::BadBatch(format!("no numeric column `{}`", self.config.column)));
        };
        self.counts.rows += values.len() as u64;
        self.counts.over += values.iter().filter(|&&v| v > self.config.limit).count() as u64;
        Ok(Vec::new())
    }

    fn checkpoint(&self) -> Vec<u8> {
        encode(&self.counts)
    }

    fn close_window(&mut self) -> Vec<u8> {
        encode(&std::mem::take(&mut self.counts))
    }

    fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>, MonitorError> {
        match (decode(a), decode(b)) {
            (Some(a), Some(b)) => Ok(encode(&Counts { rows: a.rows + b.rows, over: a.over + b.over })),
            _ => Err(MonitorError::Incompatible("a summary does not parse".to_owned())),
        }
    }

    fn evaluate(config: Config, _: &[u8], summary: &[u8]) -> Result<Vec<Finding>, MonitorError> {
        let damaged = || MonitorError::Incompatible("the summary does not parse".to_owned());
        let counts = decode(summary).ok_or_else(damaged)?;
        if counts.over == 0 {
            return Ok(Vec::new());
        }
        Ok(vec![Finding {
            check: "over-limit".to_owned(),
            feature: Some(config.column.clone()),
            severity: Severity::Warning,
            statistic: format!("count(> {})", config.limit),
            value: counts.over as f64,
            threshold: 0.0,
            rows: counts.rows,
            message: format!("{} of {} rows of {} are over the limit", counts.over, counts.rows, config.column),
        }])
    }
}

headland_sdk::export!(Watch as monitor);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds() {
        let a = encode(&Counts { rows: 3, over: 1 });
        let merged = Watch::merge(&a, &a).ok().and_then(|m| decode(&m));
        assert_eq!(merged.map(|c| (c.rows, c.over)), Some((6, 2)));
    }
}
