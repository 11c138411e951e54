//! Every promise, proved on a real Apache Kafka: one binary, so that it links once and all tests share one broker.

mod support;

mod accounting;
mod away;
mod backfill;
mod circuit;
mod classify;
mod contact;
mod dead_letters;
mod deliver;
mod deploy;
mod explain;
mod faults;
mod ingest;
mod letters;
mod operate;
mod outage;
mod pace;
mod passed_over;
mod poison;
mod rebalance;
mod redrive;
mod replay;
mod resize;
mod resize_stopped;
mod restart;
mod sequences;
mod start;
mod status;
mod terminal;
mod topics;
