// Answers that are asked for over and over.

/** The same function, which keeps its answers; undefined is asked for anew. With `most` of them kept it begins anew. */
export function remembered<Question, Answer>(
  most: number,
  answer: (question: Question) => Answer,
): (question: Question) => Answer {
  const known = new Map<Question, Answer>();
  return (question) => {
    const before = known.get(question);
    if (before !== undefined) return before;
    const given = answer(question);
    if (given === undefined) return given;
    if (known.size >= most) known.clear();
    known.set(question, given);
    return given;
  };
}
