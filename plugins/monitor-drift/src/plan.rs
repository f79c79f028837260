//! What is counted: which columns, over which bins, for which groups.

use headland_monitor::{
    EmbeddingReference, GroupCounts, Reference, ValuesReference, sorted_indices,
};

use crate::config::Config;

/// Groups of rows, the one of all others not among them.
const MAX_GROUPS: usize = 64;

/// Counts of one window, so that it fits into a component's memory.
const MAX_COUNTS: usize = 1 << 14;

/// The longest name of a group, in bytes, so that a field's name has room for
/// it.
const MAX_GROUP_BYTES: usize = 200;

/// What the name of a group's field begins with.
const GROUP: &str = "group/";

/// What the name of a field of all other groups begins with.
const OTHER_GROUPS: &str = "other-groups/";

/// A feature that is compared bin by bin.
pub struct Feature {
    /// The column.
    pub name: String,
    /// How a value finds its bin.
    pub kind: Kind,
    /// The reference's counts.
    pub expected: Vec<u64>,
    /// The reference's counts of some groups.
    pub groups: Vec<GroupCounts>,
}

/// How a value finds its bin.
pub enum Kind {
    /// By the edges between the bins.
    Numeric {
        /// The edges, rising.
        edges: Vec<f64>,
        /// The mean of each bin in the reference.
        means: Vec<f64>,
        /// The standard deviation of the reference.
        std: f64,
    },
    /// By name; the last bin is of those that the reference does not know.
    Categorical {
        /// The categories in the reference's order.
        names: Vec<String>,
        /// Their indices, in the order of their names.
        sorted: Vec<usize>,
    },
}

impl Kind {
    /// The bin of a category.
    pub fn category(&self, value: &str) -> usize {
        match self {
            Self::Numeric { .. } => 0,
            Self::Categorical { names, sorted } => {
                find(names, sorted, value).unwrap_or(names.len())
            }
        }
    }
}

fn find(names: &[String], sorted: &[usize], value: &str) -> Option<usize> {
    sorted.binary_search_by(|&i| names[i].as_str().cmp(value)).ok().map(|at| sorted[at])
}

fn sorted(names: &[String]) -> Vec<usize> {
    sorted_indices(names.len(), &|a, b| names[a].cmp(&names[b]))
}

/// What is counted.
pub struct Plan {
    /// The features.
    pub features: Vec<Feature>,
    /// The column that groups rows.
    pub by: Option<String>,
    /// The groups' names, in the order of their bytes.
    pub groups: Vec<String>,
    /// The summary's counts by name, with how many there are, part by part
    /// and feature by feature.
    pub fields: Vec<(String, usize)>,
    /// The vectors.
    pub embeddings: Vec<Embedding>,
}

/// A vector whose mean is compared.
pub struct Embedding {
    /// What the reference says of it.
    pub reference: EmbeddingReference,
    /// The names of its elements' columns.
    pub columns: Vec<String>,
    /// The name of the summary's field of sums.
    pub sums: String,
    /// The name of the summary's field of the number of vectors.
    pub vectors: String,
    /// One over the standard deviation that an element has in root mean
    /// square: elements are summed in this unit.
    pub per_unit: f64,
}

impl Plan {
    /// What a configuration counts over a reference.
    ///
    /// # Errors
    /// What does not go together.
    pub fn new(config: &Config, reference: Reference) -> Result<Self, String> {
        let known = |name: &String| {
            reference.column(name).is_some() || reference.embeddings.iter().any(|e| e.name == *name)
        };
        if let Some(name) = config.columns.iter().find(|name| !known(name)) {
            return Err(format!("the reference has no column `{name}`"));
        }
        let by = config.by.clone();
        let groups = groups(config, &reference)?;
        let has_groups = reference.by == config.by;
        let is_watched = |name: &String| {
            Some(name) != config.by.as_ref()
                && (config.columns.is_empty() || config.columns.contains(name))
        };
        // So that no two fields have one name.
        let is_clear = |name: &str| !name.starts_with(GROUP) && !name.starts_with(OTHER_GROUPS);
        if by.is_some() && !reference.columns.iter().all(|c| is_clear(&c.name)) {
            return Err("a column's name begins as those of groups do".to_owned());
        }
        let mut features = Vec::new();
        for column in reference.columns {
            if is_watched(&column.name) {
                features.extend(Feature::new(column.name, column.values, has_groups));
            }
        }
        let mut embeddings = Vec::new();
        for embedding in reference.embeddings {
            if is_watched(&embedding.name) {
                embeddings.push(Embedding::new(embedding));
            }
        }
        let parts = parts(&by, &groups);
        let counts = features.iter().fold(0, |sum, f| sum + f.expected.len());
        if counts.saturating_mul(parts) > MAX_COUNTS {
            return Err(format!("{counts} bins of {parts} groups are over {MAX_COUNTS} counts"));
        }
        let mut fields = Vec::with_capacity(parts * features.len());
        for part in 0..parts {
            for feature in &features {
                let name = feature.name.as_str();
                let field = match part.checked_sub(1).map(|group| groups.get(group)) {
                    None => [name, "/bins"].concat(),
                    Some(Some(group)) => [GROUP, group, "/", name, "/bins"].concat(),
                    Some(None) => [OTHER_GROUPS, name, "/bins"].concat(),
                };
                fields.push((field, feature.expected.len()));
            }
        }
        Ok(Self { features, by, groups, fields, embeddings })
    }

    /// Into how many parts rows are counted: all, each group, all other
    /// groups.
    pub fn parts(&self) -> usize {
        parts(&self.by, &self.groups)
    }

    /// The part of rows of that group.
    pub fn part(&self, group: Option<&str>) -> usize {
        let known = group.and_then(|g| self.groups.binary_search_by(|n| n.as_str().cmp(g)).ok());
        1 + known.unwrap_or(self.groups.len())
    }
}

fn parts(by: &Option<String>, groups: &[String]) -> usize {
    if by.is_some() { groups.len() + 2 } else { 1 }
}

impl Feature {
    /// Nothing for one whose reference has no distribution.
    fn new(name: String, values: ValuesReference, has_groups: bool) -> Option<Self> {
        let (kind, mut expected, mut groups) = match values {
            ValuesReference::Numeric(numeric) => {
                let (bins, std) = (numeric.bins?, numeric.std);
                let kind = Kind::Numeric { edges: bins.edges, means: bins.means, std };
                (kind, bins.counts, bins.groups)
            }
            ValuesReference::Categorical(c) => {
                let sorted = sorted(&c.categories);
                (Kind::Categorical { names: c.categories, sorted }, c.counts, c.groups)
            }
        };
        if !has_groups {
            groups.clear();
        }
        if let Kind::Categorical { .. } = kind {
            // Those that the reference does not know.
            expected.push(0);
            groups.iter_mut().for_each(|g| g.counts.push(0));
        }
        Some(Self { name, kind, expected, groups })
    }

    /// What the reference has of a group; of the whole where it has nothing
    /// of its own.
    pub fn expected_of(&self, group: Option<&String>) -> &[u64] {
        let own = self.groups.iter().find(|g| Some(&g.name) == group);
        own.map_or(&self.expected, |g| &g.counts)
    }

    /// Whether its bins lie along an axis.
    pub fn has_order(&self) -> bool {
        matches!(self.kind, Kind::Numeric { .. })
    }
}

impl Embedding {
    /// Ready to be summed.
    pub fn new(reference: EmbeddingReference) -> Self {
        let dimensions = reference.mean.len();
        Self {
            columns: (0..dimensions).map(|i| reference.column(i)).collect(),
            sums: format!("{}/sums", reference.name),
            vectors: format!("{}/vectors", reference.name),
            per_unit: (dimensions as f64 / reference.traces[0]).sqrt(),
            reference,
        }
    }
}

fn groups(config: &Config, reference: &Reference) -> Result<Vec<String>, String> {
    let Some(by) = &config.by else { return Ok(Vec::new()) };
    let groups = match reference.column(by).map(|c| &c.values) {
        _ if !config.groups.is_empty() => config.groups.clone(),
        Some(ValuesReference::Categorical(c)) => c.categories.clone(),
        Some(ValuesReference::Numeric(_)) => {
            return Err(format!("rows cannot be grouped by `{by}`, which holds numbers"));
        }
        None => {
            return Err(format!(
                "`by` is `{by}`, of which neither `groups` nor the reference has values"
            ));
        }
    };
    let mut distinct: Vec<String> = Vec::new();
    for i in sorted(&groups) {
        if distinct.last() != Some(&groups[i]) {
            distinct.push(groups[i].clone());
        }
    }
    let groups = distinct;
    if !groups.iter().all(|group| group.len() <= MAX_GROUP_BYTES && !group.contains('/')) {
        return Err("a group's name is too long, or has a slash".to_owned());
    }
    if groups.len() > MAX_GROUPS {
        return Err(format!("{} groups are more than {MAX_GROUPS}", groups.len()));
    }
    Ok(groups)
}
