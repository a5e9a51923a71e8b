//! ruma-state-res, timed. The same questions and answers as those of `synapse_resolver.py`:
//! a JSON object a line on standard input, one a line on standard output. Events, state maps and
//! full auth chains are in memory before a clock starts; the auth difference is its own affair,
//! the conflicted subgraph is given. Previous events are never asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::time::Instant;

use ruma_common::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
    RoomVersionId, UserId, room_version_rules::RoomVersionRules,
};
use ruma_events::TimelineEventType;
use ruma_state_res::{Event, StateMap, resolve, utils::event_id_set::EventIdSet};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Pdu {
    event_id: OwnedEventId,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    #[serde(rename = "type")]
    kind: TimelineEventType,
    state_key: Option<String>,
    content: Box<RawValue>,
    auth_events: Vec<OwnedEventId>,
}

type Ids<'a> = Box<dyn DoubleEndedIterator<Item = &'a OwnedEventId> + 'a>;

impl Event for Pdu {
    type Id = OwnedEventId;
    fn event_id(&self) -> &OwnedEventId { &self.event_id }
    fn room_id(&self) -> Option<&RoomId> { self.room_id.as_deref() }
    fn sender(&self) -> &UserId { &self.sender }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch { self.origin_server_ts }
    fn event_type(&self) -> &TimelineEventType { &self.kind }
    fn content(&self) -> &RawValue { &self.content }
    fn state_key(&self) -> Option<&str> { self.state_key.as_deref() }
    fn prev_events(&self) -> Ids<'_> { Box::new(std::iter::empty()) }
    fn auth_events(&self) -> Ids<'_> { Box::new(self.auth_events.iter()) }
    fn redacts(&self) -> Option<&OwnedEventId> { None }
    fn rejected(&self) -> bool { false }
}

struct Case {
    maps: Vec<StateMap<OwnedEventId>>,
    chains: Vec<EventIdSet<OwnedEventId>>,
    subgraph: EventIdSet<OwnedEventId>,
}

struct Resolver {
    rules: RoomVersionRules,
    events: HashMap<OwnedEventId, Pdu>,
    cases: HashMap<String, Case>,
}

fn rows(file: &str) -> impl Iterator<Item = Value> + use<> {
    let lines = BufReader::new(File::open(file).unwrap()).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

impl Resolver {
    fn load(events_file: &str, cases_file: &str) -> Self {
        let mut lines = rows(events_file);
        let head = lines.next().unwrap();
        let version = RoomVersionId::deserialize(&head["room_version"]).unwrap();
        let mut events = HashMap::new();
        for mut row in lines {
            row["event"]["event_id"] = row["event_id"].take();
            let pdu: Pdu = serde_json::from_str(&row["event"].to_string()).unwrap();
            events.insert(pdu.event_id.clone(), pdu);
        }
        let mut resolver = Self { rules: version.rules().unwrap(), events, cases: HashMap::new() };
        for row in rows(cases_file) {
            resolver.cases.insert(row["name"].as_str().unwrap().to_owned(), resolver.case(&row));
        }
        resolver
    }

    fn case(&self, row: &Value) -> Case {
        let states = Vec::<Vec<OwnedEventId>>::deserialize(&row["states"]).unwrap();
        let subgraph = Vec::<OwnedEventId>::deserialize(&row["subgraph"]).unwrap();
        let entry = |id: &OwnedEventId| {
            let event = &self.events[id];
            ((event.kind.to_string().into(), event.state_key.clone().unwrap()), id.clone())
        };
        Case {
            maps: states.iter().map(|state| state.iter().map(entry).collect()).collect(),
            chains: states.iter().map(|state| self.chain(state)).collect(),
            subgraph: subgraph.into_iter().collect(),
        }
    }

    /// The state's events and all that they stand on.
    fn chain(&self, state: &[OwnedEventId]) -> EventIdSet<OwnedEventId> {
        let mut pending = state.to_vec();
        let mut seen = EventIdSet::new();
        while let Some(id) = pending.pop() {
            if seen.insert(id.clone()) {
                pending.extend(self.events[&id].auth_events.iter().cloned());
            }
        }
        seen
    }

    fn once(&self, case: &Case) -> (f64, StateMap<OwnedEventId>) {
        let chains = case.chains.clone();
        let fetch = |id: &EventId| self.events.get(id);
        let rules = self.rules.state_res.v2_rules().unwrap();
        let started = Instant::now();
        let resolved = resolve(&self.rules.authorization, rules, &case.maps, chains, fetch, |_| {
            Some(case.subgraph.clone())
        });
        (started.elapsed().as_secs_f64(), resolved.unwrap())
    }

    fn resolve(&self, case: &Case, seconds: f64) -> Value {
        let (started, mut taken) = (Instant::now(), Vec::new());
        let mut resolved = StateMap::new();
        while taken.len() < 3 || (started.elapsed().as_secs_f64() < seconds && taken.len() < 200) {
            let (spent, state) = self.once(case);
            taken.push(spent);
            resolved = state;
        }
        let line = |((kind, key), id)| format!("{kind}\0{key}\0{id}\n");
        let mut lines: Vec<String> = resolved.into_iter().map(line).collect();
        lines.sort();
        json!({ "seconds": taken, "digest": format!("{:x}", Sha256::digest(lines.concat())) })
    }
}

fn main() {
    let mut resolver = None;
    for line in stdin().lock().lines() {
        let order: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |name: &str| order[name].as_str().unwrap();
        let answer = if text("do") == "load" {
            resolver = Some(Resolver::load(text("events"), text("cases")));
            json!({})
        } else {
            let known = resolver.as_ref().unwrap();
            known.resolve(&known.cases[text("case")], order["seconds"].as_f64().unwrap())
        };
        println!("{answer}");
        stdout().flush().unwrap();
    }
}
