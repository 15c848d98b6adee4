//! `published`: other people's numbers for the values of a configuration.

/// One published result, in percent.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub source: String,
    pub avg_acc: Number,
    pub forgetting: Option<Number>,
}

/// A number with its deviation over runs, if that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number {
    pub value: f64,
    pub deviation: Option<f64>,
}

impl Published {
    /// Reads `SOURCE: AVERAGE ACCURACY ± DEVIATION, FORGETTING ± DEVIATION`; the deviations and the
    /// forgetting may be left out, `+-` may be written for `±`. The source may contain colons.
    ///
    /// # Errors
    /// A sentence with the text, what was wanted and what was found.
    pub fn parse(text: &str) -> Result<Published, String> {
        let wrong = |found: &str| {
            format!(
                "published: wanted \"SOURCE: AVERAGE ACCURACY ± DEVIATION, FORGETTING ± DEVIATION\" in percent, such as \
                 \"Wang et al. 2022: 83.83 ± 0.04, 7.63 ± 0.30\", found \"{text}\" ({found})"
            )
        };
        let (source, numbers) = text.rsplit_once(':').ok_or_else(|| wrong("no colon"))?;
        if source.trim().is_empty() {
            return Err(wrong("no source"));
        }
        let mut numbers = numbers.split(',').map(|n| Number::parse(n).map_err(|what| wrong(&what)));
        let avg_acc = numbers.next().ok_or_else(|| wrong("no number"))??;
        let forgetting = numbers.next().transpose()?;
        if numbers.next().is_some() {
            return Err(wrong("more than two numbers"));
        }
        Ok(Published { source: source.trim().to_string(), avg_acc, forgetting })
    }
}

/// Such as `83.83` or `83.83 ± 0.04`.
impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.deviation {
            Some(deviation) => write!(f, "{:.2} ± {deviation:.2}", self.value),
            None => write!(f, "{:.2}", self.value),
        }
    }
}

impl Number {
    fn parse(text: &str) -> Result<Number, String> {
        let text = text.replace("+-", "±");
        let percent = |text: &str| match text.trim().parse::<f64>() {
            Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
            _ => Err(format!("`{}` is no number from 0 to 100", text.trim())),
        };
        match text.split_once('±') {
            Some((value, deviation)) => {
                Ok(Number { value: percent(value)?, deviation: Some(percent(deviation)?) })
            }
            None => Ok(Number { value: percent(&text)?, deviation: None }),
        }
    }
}
