//! The state tree: `St` rows `V room version chunk`; the auth graph: `A room event/256`; equal states: `D room hash`.
