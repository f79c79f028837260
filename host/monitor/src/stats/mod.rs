//! The functions behind the findings: tails and quantiles of distributions,
//! tests, and distances between two histograms over the same bins.
//!
//! All are plain functions of numbers; what noise means for a distance, and
//! when it is worth an alarm, is a monitor's to say.

mod distances;
mod distributions;
mod ks;
mod special;

pub use distances::{
    ChiSquare, PSI_FLOOR, chi_square_goodness, chi_square_homogeneity, hellinger, jensen_shannon,
    ks_binned, psi, total_variation, wasserstein_binned,
};
pub use distributions::{
    binomial_critical_count, binomial_lower_tail, binomial_upper_tail, chi2_upper_quantile,
    chi2_upper_tail, clopper_pearson_lower, clopper_pearson_upper, kolmogorov_upper_quantile,
    kolmogorov_upper_tail, normal_upper_quantile, normal_upper_tail, wilks_outside_range,
};
pub use ks::ks_two_sample;
