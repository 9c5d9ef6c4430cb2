DROP TABLE mail_actions, mail_counts, mail_bounces, mail_suppressions, digest_runs, user_notification_prefs;
DROP TYPE suppression_reason, digest_state, mail_kind;
