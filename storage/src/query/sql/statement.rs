//! Which texts are statements that may run.
//!
//! Constraints: one statement that asks (`SELECT`, `WITH`, `VALUES`, or `EXPLAIN` of
//! one), at most [`STATEMENT_BYTES_MAX`]. What a parser builds is as deep as a chain of
//! operators is long, and is taken down by recursion: so what can nest is counted before
//! it is parsed.

use std::collections::VecDeque;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::SqlError;
use crate::files::COLUMN_NAMES;

/// Longest statement.
pub const STATEMENT_BYTES_MAX: usize = 1024 * 1024;
/// Operators, brackets and keywords in a statement. Lists of values are not counted:
/// `IN (...)` of 10,000 users is one pair of brackets. A planner's work grows with the
/// square of a chain: 1,000 are planned in a second or two.
const NESTABLE_MAX: usize = 1000;
/// Words, numbers, marks: a parser keeps some 100 bytes of each.
const WORDS_MAX: usize = 300_000;
/// How deep brackets and subqueries may stand in each other.
const DEPTH_MAX: usize = 50;

/// The statement of a text, if it is one that may run.
pub(super) fn parse(text: &str) -> Result<Statement, SqlError> {
    if text.len() > STATEMENT_BYTES_MAX {
        return Err(SqlError::Invalid(format!("the statement is longer than {STATEMENT_BYTES_MAX} bytes")));
    }
    check_size(text)?;
    let parser = DFParserBuilder::new(text).with_dialect(&GenericDialect {}).with_recursion_limit(DEPTH_MAX);
    let statements = parser.build().and_then(|mut parser| parser.parse_statements());
    let statement = only_one(statements.map_err(SqlError::from)?)?;
    check_kind(&statement)?;
    Ok(statement)
}

fn only_one(mut statements: VecDeque<Statement>) -> Result<Statement, SqlError> {
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (Some(_), false) => Err(SqlError::NotAllowed("several statements in one request".to_owned())),
        (None, _) => Err(SqlError::Invalid("there is no statement in it".to_owned())),
    }
}

fn check_size(text: &str) -> Result<(), SqlError> {
    if words_at_most(text) > WORDS_MAX {
        return Err(SqlError::Invalid(format!("the statement has more than {WORDS_MAX} words")));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize();
    let tokens = tokens.map_err(|fault| SqlError::Invalid(fault.to_string()))?;
    if tokens.iter().filter(|token| can_nest(token)).count() > NESTABLE_MAX {
        return Err(SqlError::Invalid(format!(
            "the statement has more than {NESTABLE_MAX} operators, brackets and keywords"
        )));
    }
    Ok(())
}

/// No fewer than the words of a text, without reading it as SQL.
fn words_at_most(text: &str) -> usize {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let mut words = 0;
    let mut before = false;
    for byte in text.bytes() {
        let word = is_word(byte);
        words += usize::from(!word || !before);
        before = word;
    }
    words
}

fn can_nest(token: &Token) -> bool {
    match token {
        // Some columns are called by words that are keywords elsewhere.
        Token::Word(word) => {
            word.keyword != Keyword::NoKeyword && !COLUMN_NAMES.contains(&word.value.as_str())
        }
        Token::Comma | Token::Period | Token::Whitespace(_) | Token::Number(..) | Token::EOF => false,
        Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => false,
        _ => true,
    }
}

/// Refuses what is no question. What hides in one (`SELECT ... INTO`) is found in its plan.
fn check_kind(statement: &Statement) -> Result<(), SqlError> {
    let refused = match statement {
        Statement::Statement(inner) => match inner.as_ref() {
            SqlStatement::Query(_) => return Ok(()),
            other => first_words(&other.to_string()),
        },
        Statement::Explain(explain) if explain.options.analyze => "EXPLAIN ANALYZE".to_owned(),
        Statement::Explain(explain) => return check_kind(&explain.statement),
        Statement::CreateExternalTable(_) => "CREATE EXTERNAL TABLE".to_owned(),
        Statement::CopyTo(_) => "COPY".to_owned(),
        Statement::Reset(_) => "RESET".to_owned(),
    };
    Err(SqlError::NotAllowed(refused))
}

/// What a statement is called: its words in capitals, at most three.
fn first_words(text: &str) -> String {
    let words = text.split_ascii_whitespace().take(3);
    let capital = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase());
    words.take_while(capital).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_pass_and_all_else_is_named() {
        for text in [
            "SELECT 1",
            "select * from samples;",
            "WITH a AS (SELECT 1 AS n) SELECT n FROM a UNION ALL VALUES (2)",
            "VALUES (1), (2)",
            "EXPLAIN SELECT 1",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for (text, named) in [
            ("DELETE FROM samples", "DELETE"),
            ("INSERT INTO samples VALUES (1)", "INSERT"),
            ("UPDATE samples SET value = 1", "UPDATE"),
            ("DROP TABLE samples", "DROP TABLE"),
            ("CREATE TABLE a AS SELECT 1", "CREATE TABLE"),
            ("CREATE EXTERNAL TABLE a STORED AS CSV LOCATION '/etc/passwd'", "CREATE EXTERNAL TABLE"),
            ("COPY samples TO '/tmp/a.csv'", "COPY"),
            ("COPY (SELECT 1) TO '/tmp/a.parquet' STORED AS PARQUET", "COPY"),
            ("SET datafusion.execution.batch_size = 1", "SET"),
            ("RESET datafusion.execution.batch_size", "RESET"),
            ("SHOW TABLES", "SHOW"),
            ("SHOW ALL", "SHOW"),
            ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN ANALYZE"),
            ("EXPLAIN COPY samples TO '/tmp/a.csv'", "COPY"),
            ("EXPLAIN DROP TABLE samples", "DROP TABLE"),
            ("PREPARE p AS SELECT 1", "PREPARE"),
            ("EXECUTE p", "EXECUTE"),
            ("BEGIN", "BEGIN"),
            ("CREATE FUNCTION f() RETURNS INT RETURN 1", "CREATE FUNCTION"),
            ("SELECT 1; SELECT 2", "several statements"),
            ("SELECT 1; DROP TABLE samples", "several statements"),
        ] {
            match parse(text) {
                Err(SqlError::NotAllowed(found)) => assert!(found.starts_with(named), "{text}: {found}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in ["", "  ", "--", "SELEC 1", "SELECT", "SELECT 'a", "SELECT * FROM samples WHERE", ";"] {
            assert!(matches!(parse(text), Err(SqlError::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn what_nests_too_deep_or_goes_on_too_long_is_refused_before_it_is_parsed() {
        let nested = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
        let chain = |n: usize, operator: &str| format!("SELECT {}", vec!["1"; n].join(operator));
        for text in [
            nested(10_000),
            nested(60),
            chain(10_000, " AND "),
            chain(200_000, "+"),
            format!("SELECT {}1", "NOT ".repeat(10_000)),
            format!("SELECT {}1", "-".repeat(10_000)),
            format!("SELECT 1{}", "::int".repeat(10_000)),
            format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(10_000)),
            format!("SELECT '{}'", "x".repeat(STATEMENT_BYTES_MAX)),
            format!("SELECT * FROM samples WHERE user_id IN ({})", vec!["1"; 200_000].join(",")),
        ] {
            let found = parse(&text);
            assert!(matches!(found, Err(SqlError::Invalid(_))), "{}: {found:?}", &text[..40]);
        }
        assert!(parse(&nested(20)).is_ok());
        let many = (0..100_000).map(|n| format!("'u{n}'")).collect::<Vec<_>>().join(",");
        assert!(parse(&format!("SELECT * FROM samples WHERE user_id IN ({many})")).is_err());
        let many = (0..30_000).map(|n| format!("'u{n}'")).collect::<Vec<_>>().join(",");
        assert!(parse(&format!("SELECT * FROM samples WHERE user_id IN ({many})")).is_ok());
    }
}
