DROP TABLE reminder_fires;
DROP TABLE reminders;
DROP TYPE fire_state;
DROP TYPE channel;
DROP TYPE reminder_kind;
